# s3cmd: objects, multipart uploads and synchronization.
cat >s3cmd.cfg <<END
[default]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
host_base = ${S3_ENDPOINT#http://}
host_bucket = ${S3_ENDPOINT#http://}
bucket_location = us-east-1
use_https = False
END
s3() { s3cmd --config s3cmd.cfg --no-progress "$@"; }

mkdir -p local/deep
head -c 20000000 /dev/urandom >large.bin
for name in one.txt 'with space+%2F.txt' deep/ü.txt; do
    echo "content of $name" >"local/$name"
done
s3 mb s3://s3cmd
s3 put --multipart-chunk-size-mb 5 large.bin s3://s3cmd/large.bin
s3 put --add-header x-amz-meta-color:blue local/one.txt s3://s3cmd/one.txt
[[ $(s3 info s3://s3cmd/one.txt) == *'x-amz-meta-color: blue'* ]]
s3 get s3://s3cmd/large.bin back.bin
cmp large.bin back.bin
[[ $(s3 ls s3://s3cmd | awk '{print $3, $4}') == $'20000000 s3://s3cmd/large.bin\n19 s3://s3cmd/one.txt' ]]

s3 sync local/ s3://s3cmd/tree/
rm local/one.txt
echo more >>local/deep/ü.txt
s3 sync --delete-removed local/ s3://s3cmd/tree/
mkdir down
s3 sync s3://s3cmd/tree/ down/
diff -r local down
s3 cp s3://s3cmd/large.bin s3://s3cmd/copy.bin
s3 mv s3://s3cmd/copy.bin s3://s3cmd/moved.bin
s3 get s3://s3cmd/moved.bin - | cmp - large.bin
s3 modify --add-header x-amz-meta-color:red s3://s3cmd/one.txt
[[ $(s3 info s3://s3cmd/one.txt) == *'x-amz-meta-color: red'* ]]
s3 del s3://s3cmd/one.txt
s3 del --recursive --force s3://s3cmd/
[[ -z $(s3 ls --recursive s3://s3cmd) ]]
s3 rb s3://s3cmd
